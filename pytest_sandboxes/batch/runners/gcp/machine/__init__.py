"""The program of a task: fetches what was sent, has `bootstrap` run the shard, and writes down what it says.

Only the standard library is imported, and what stands here: it becomes part of the job (`job.py`). It ends when the
controller's lease is gone or old, or cannot be read for as long. Where the service itself says that it is gone or old,
the program removes what it finds of the run. It never lists the bucket, so that its account may be held to a prefix of
names: what there is to remove is what was ordered, and what shards have written.
"""
