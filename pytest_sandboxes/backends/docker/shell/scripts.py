"""What the image's `sh` is given to run: POSIX, and builtins only wherever these will do.

Nothing that a test or its code chooses becomes part of a script: paths, names and words are arguments. Variables have a
prefix, because a test's own of the same name would otherwise be changed for its command.
"""

from __future__ import annotations

MAIN_LOOP = r"""
deadline=$1 crowded=$2 kept= beats=0
if (read -r -t 1 line </dev/null; [ $? -le 1 ]) 2>/dev/null; then
  next() { read -r -t "$deadline" number order argument; }
  watch() { :; }
else
  # a `read` without a deadline gets one from outside
  next() { read -r number order argument; }
  watchdog=
  # A shell that cannot fork ends. Where code may have the last process that there may be, it stands still meanwhile,
  # and what the watchdog before has left is enough.
  watch() {
    tries=0 moving=$crowded
    while [ -n "$moving" ] && [ "$tries" -lt 1000 ]; do # who is still on the way to a fork has a place already
      kill -STOP -1
      others
      tries=$((tries + 1))
    done
    if [ -n "$watchdog" ]; then
      others
      kill -9 "$watchdog"
      for process in $found; do
        case $process in *:"$watchdog") kill -9 "${process%:*}" ;; esac
      done
      wait "$watchdog"
      for process in $found; do
        case $process in *:"$watchdog") see_buried "/proc/${process%:*}" ;; esac
      done
    fi
    (sleep "$deadline" && kill -9 "$$") </dev/null >/dev/null 2>&1 &
    watchdog=$! tries=0 found=
    while [ -n "$crowded" ] && [ "$tries" -lt 100 ]; do # until it has forked as well
      case "$found " in *":$watchdog "*) break ;; esac
      others
      tries=$((tries + 1))
    done
    [ -z "$crowded" ] || kill -CONT -1
  }
fi 2>/dev/null

see_buried() { # waits until not even the remains of a process are there, which count as one
  tries=0
  while [ -d "$1" ] && [ "$tries" -lt 10000 ]; do tries=$((tries + 1)); done
}

look_at() { # sets what the kernel says of a process
  state=Z parent=
  while read -r key value rest; do
    case $key in
      State:) state=$value ;;
      PPid:) parent=$value; break ;;
    esac
  done <"/proc/$1/status"
}

others() { # processes that run, but for the first one, this one and its own; and whether any does not stand still
  found= moving=
  for entry in /proc/[0-9]*; do
    process=${entry#/proc/}
    case $process in 1|$$|*[!0-9]*) continue ;; esac
    look_at "$process"
    case $state in [TtZX]) ;; *) moving=1 ;; esac
    [ "$state" = Z ] || [ "$state" = X ] || [ -z "$parent" ] || [ "$parent" = $$ ] || found="$found $process:$parent"
  done
}

end_all() {
  passes=0 left=1
  while [ "$left" -gt 0 ] && [ "$passes" -lt 20 ]; do # what is killed is not gone at once
    kill -9 -1
    others
    left=0 passes=$((passes + 1))
    for process in $found; do left=$((left + 1)); done
  done
  for entry in /proc/[0-9]*; do
    case ${entry#/proc/} in 1|$$) ;; *) see_buried "$entry" ;; esac
  done
}

# Ends those below process $1 and those whose parents have ended, and keeps what is below other commands. Meanwhile all
# stand still: what is being looked at has no children.
end_tree() {
  kill -STOP -1
  passes=0 left=1
  while [ "$left" -gt 0 ] && [ "$passes" -lt 20 ]; do
    others
    left=0 passes=$((passes + 1))
    for process in $found; do eval "parent_${process%:*}=${process#*:}"; done
    for process in $found; do
      top=${process%:*} above=${process#*:} steps=0
      while [ "$above" -gt 1 ] && [ "$above" != $$ ] && [ "$steps" -lt 1000 ]; do
        top=$above steps=$((steps + 1))
        eval "above=\${parent_$top:-1}"
      done
      if [ "$above" = 1 ] || [ "$top" = "$1" ] || [ "$steps" = 1000 ]; then
        kill -9 "${process%:*}"
        left=$((left + 1))
      fi
    done
    for process in $found; do unset "parent_${process%:*}"; done
  done
  kill -CONT -1
}

count_oom_kills() { # how often the kernel has killed here at the memory limit; 0 where it does not say
  left=0
  for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ ! -r "$file" ] || while read -r key value; do
      [ "$key" != oom_kill ] || left=$value
    done <"$file"
  done
}

watch 2>/dev/null
while next; do
  left=0
  case $order in
    beat) beats=$((beats + 1)); [ "$((beats % 8))" != 0 ] || watch ;;
    all) end_all; watch ;;
    tree) end_tree "$argument"; watch ;;
    oom) count_oom_kills ;;
    keep) kept=$argument; deadline=$argument; watch ;;
    *) continue ;;
  esac 2>/dev/null
  printf '%s %s\n' "$number" "$left"
done
[ -z "$kept" ] || sleep "$kept"
"""
"""The container's main command, with the seconds that it lives without a word, and a word behind them if code may have
all processes that there may be. It is root and takes orders, `NUMBER ORDER ARGUMENT` a line, and answers each by its
number and a count: of processes that are left and should have ended, or of the kernel's kills at the memory limit. It
ends with its input, and the container with it."""

COMMAND = r"""
__ps_fail() { printf '%s %s %s\n' "$__ps_sign" "$1" "$2"; exit 0; }
__ps_sign=$1 __ps_cwd=$2 __ps_count=$3
shift 3
unset OLDPWD SHLVL
while [ "$__ps_count" -gt 0 ]; do unset "$1"; shift; __ps_count=$((__ps_count - 1)); done
__ps_count=$1
shift
cd -P -- "$__ps_cwd" 2>/dev/null || {
  [ ! -d "$__ps_cwd" ] || __ps_fail EACCES cwd
  [ ! -e "$__ps_cwd" ] || __ps_fail ENOTDIR cwd
  __ps_fail ENOENT cwd
}
unset OLDPWD
__ps_find() {
  __ps_program= __ps_denied=
  __ps_path=${PATH-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}:
  while [ -n "$__ps_path" ]; do
    __ps_candidate=${__ps_path%%:*}
    __ps_path=${__ps_path#*:}
    __ps_candidate=${__ps_candidate:-.}/$1
    if [ -f "$__ps_candidate" ]; then
      [ ! -x "$__ps_candidate" ] || { __ps_program=$__ps_candidate; return; }
      __ps_denied=1
    fi
  done
}
# the variables that a shell does not pass on as they are come first, then the program
if [ "$__ps_count" -gt 0 ]; then
  __ps_at=$((__ps_count + 1))
  eval "__ps_word=\${$__ps_at}"
else
  __ps_word=$1
fi
case $__ps_word in
  */*)
    __ps_program=$__ps_word
    __ps_parent=${__ps_program%/*}/
    [ ! -e "${__ps_parent%/}" ] || [ -d "$__ps_parent" ] || __ps_fail ENOTDIR program
    [ ! -d "$__ps_parent" ] || [ -x "$__ps_parent" ] || __ps_fail EACCES program
    [ -e "$__ps_program" ] || __ps_fail ENOENT program
    [ -f "$__ps_program" ] && [ -x "$__ps_program" ] || __ps_fail EACCES program
    ;;
  *)
    __ps_find "$__ps_word"
    if [ -z "$__ps_program" ]; then
      [ -z "$__ps_denied" ] || __ps_fail EACCES program
      __ps_fail ENOENT program
    fi
    ;;
esac
trap '[ "$?" != 127 ] || __ps_fail ENOENT program; __ps_fail ENOEXEC program' EXIT
printf '%s started %s\n' "$__ps_sign" "$$"
if [ "$__ps_count" -gt 0 ]; then
  for __ps_env in /usr/bin/env /bin/env; do [ ! -x "$__ps_env" ] || exec "$__ps_env" "$@"; done
  exit 127
fi
shift
exec "$__ps_program" "$@"
"""
"""Starts a command: sign, working directory, how many names to unset, these, how many variables to set on top, these,
the program and its arguments. Its first line of output says `SIGN started PROCESS`, or what kept it from that."""

_DECODE = r"""
count=$#
while [ "$count" -gt 0 ]; do
  word=$(printf '%b.' "$1")
  shift
  set -- "$@" "${word%.}"
  count=$((count - 1))
done
exec /bin/sh -c "$@"
"""


def run(script: str, *words: bytes) -> list[bytes]:
    """The command that has `sh` run a script with arguments, each byte of it as text that JSON can carry."""
    argv = [script.encode(), b"sh", *words]
    if all(is_text(word) for word in argv):
        return [b"/bin/sh", b"-c", *argv]
    return [b"/bin/sh", b"-c", _DECODE.encode(), b"sh", *map(_octal, argv)]


def is_text(data: bytes) -> bool:
    """It is UTF-8, and thus can be part of a request to the Engine."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _octal(word: bytes) -> bytes:
    return b"".join(bytes((byte,)) if byte in _PLAIN else b"\\0%03o" % byte for byte in word)


_PLAIN = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_/.-"
)  # no digits: they would be read as octal

_FILE = r"""
sign=$1 path=$2
shift 2
fail() { printf '%s %s path\n' "$sign" "$1"; exit 0; }
started() { printf '%s started %s\n' "$sign" "$$"; }
# as open(2) puts it
check_names() {
  rest=${path#/} above=
  [ "${#path}" -lt 4096 ] || fail ENAMETOOLONG
  while [ -n "$rest" ]; do
    name=${rest%%/*} above=$above/${rest%%/*}
    [ "${#name}" -le 255 ] || fail ENAMETOOLONG
    case $rest in */*) rest=${rest#*/} ;; *) return ;; esac
    if [ -d "$above" ]; then
      [ -x "$above" ] || fail EACCES
    elif [ -e "$above" ]; then
      fail ENOTDIR
    elif [ -n "$1" ]; then
      fail ENOENT
    fi
  done
}
resolve() { # sets what a path leads to
  real=$path hops=0
  while [ -h "$real" ]; do
    hops=$((hops + 1))
    [ "$hops" -le 40 ] || fail ELOOP
    target=$(readlink "$real"; printf x) target=${target%??}
    case $target in /*) real=$target ;; *) real=${real%/*}/$target ;; esac
  done
}
missing() {
  check_names 1
  resolve
  fail ENOENT
}
# what the kernel makes up says something about this shell, and nothing about the slot
no_kernel_file() {
  resolve
  real=$(cd -P -- "${real%/*}/" 2>/dev/null && pwd -P; printf x)
  case ${real%x} in /proc|/proc/*|/sys|/sys/*|"/proc
"|"/sys
") fail EINVAL ;; esac
}
"""

READ = (
    _FILE
    + r"""
[ ! -d "$path" ] || fail EISDIR
[ -e "$path" ] || missing
[ -f "$path" ] || fail EINVAL
no_kernel_file
[ -r "$path" ] || fail EACCES
started
exec cat <"$path"
"""
)
"""Reads a file: sign and path."""

WRITE = (
    _FILE
    + r"""
mode=$1
case $path in */) fail EISDIR ;; esac
check_names
try() { # says why something cannot be done, as the C library puts it
  said=$("$@" 2>&1) && return
  case $said in
    *"Permission denied"*) fail EACCES ;;
    *"Read-only file system"*) fail EROFS ;;
    *"No space left"*) fail ENOSPC ;;
    *"too long"*) fail ENAMETOOLONG ;;
    *"symbolic links"*) fail ELOOP ;;
    *"Not a directory"*) fail ENOTDIR ;;
  esac
  fail EACCES
}
open() { : >>"$path"; }
parent=${path%/*}/
[ -d "$parent" ] || try mkdir -p -- "$parent"
[ ! -d "$path" ] || fail EISDIR
[ ! -e "$path" ] || [ -f "$path" ] || fail EINVAL
no_kernel_file
try open
exec 3>"$path"
[ -z "$mode" ] || chmod "$mode" "$path" || fail EPERM
started
exec cat >&3
"""
)
"""Writes a file, making its parents: sign, path, and its mode in octal or nothing."""

LIST = (
    _FILE
    + r"""
depth=$1 digests=$2
[ -e "$path" ] || missing
[ -d "$path" ] || fail ENOTDIR
[ -r "$path" ] && cd -P -- "$path" 2>/dev/null || fail EACCES
started
describe='
  sign=$1 digests=$2
  shift 2
  for file; do
    if [ -n "$digests" ] && [ -f "$file" ] && [ ! -h "$file" ] && [ -r "$file" ]; then
      digest=$(sha256sum <"$file") digest=${digest%% *}
    else
      digest=
    fi
    stat -c "=$sign %f %s %Y ${digest:--} %n" "$file" || [ ! -e "$file" ] || exit 1
  done
'
if [ -z "$digests" ]; then
  set -- stat -c "=$sign %f %s %Y - %n"
else
  set -- sh -c "$describe" sh "$sign" "$digests"
fi
if [ "$depth" = 1 ]; then
  exec find . ! -name . -prune -exec "$@" {} +
fi
exec find . ! -name . -exec "$@" {} +
"""
)
"""Lists a directory: sign, path, how deep (1 or nothing), and whether with digests. An entry is `=SIGN MODE SIZE MTIME
DIGEST ./NAME` with its type in the mode, which is hexadecimal, and `-` for no digest."""
