#!/bin/sh
# Makes in the directory OUT, as root, all that Debian's packages give to the images: python.tar and busybox.tar, each a
# root file system, and packages/*.deb, which the testbed image needs beyond python.tar. apt and debootstrap check
# the signatures of what they load.
# Usage: debian.sh MIRROR OUT
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
mirror=$1 out=$2
root=$out/root

# Nobody needs the tree after a crash of the machine, and syncing each package would take longer than unpacking it.
mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
cat >"$root/etc/dpkg/dpkg.cfg.d/small-and-fast" <<'END'
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
END
debootstrap --variant=minbase --force-check-gpg --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
  --include=ca-certificates,git,python3 bookworm "$root" "$mirror"

# By the tree's own apt, so that they fit to what is in it, whatever release the machine has.
rm "$root"/var/cache/apt/archives/*.deb
chroot "$root" apt-get -q update
chroot "$root" apt-get -q -y --no-install-recommends --download-only install python3-pip python3-pytest
mv "$root/var/cache/apt/archives" "$out/packages"
rm -rf "$out/packages/lock" "$out/packages/partial"
(cd "$root" && chroot . sh -c 'cd /run && apt-get -q download busybox-static')
dpkg-deb --extract "$root"/run/busybox-static_*.deb "$out/busybox-static"

busybox=$out/busybox
mkdir -p "$busybox/bin" "$busybox/etc"
mkdir -m 1777 "$busybox/tmp"
mv "$(find "$out/busybox-static" -type f -path '*/bin/busybox')" "$busybox/bin/busybox"
printf '%s\n' root:x:0:0:root:/:/bin/sh nobody:x:65534:65534:nobody:/:/bin/sh >"$busybox/etc/passwd"
"$busybox/bin/busybox" --list-full | while read -r applet; do
  mkdir -p "$busybox/$(dirname "$applet")"
  [ -e "$busybox/$applet" ] || ln -s /bin/busybox "$busybox/$applet"
done
tar --create --file "$out/busybox.tar" --directory "$busybox" .

cd "$root"
rm -rf run/* tmp/* var/cache/apt/* var/cache/debconf/*-old var/lib/apt/lists/* var/log/* etc/hostname etc/resolv.conf
rm -rf usr/share/doc/* usr/share/info/* usr/share/locale/* usr/share/man/*
tar --create --file "$out/python.tar" --one-file-system --exclude './dev/*' --exclude './proc/*' --exclude './sys/*' .

cd "$out"
rm -rf root busybox busybox-static
