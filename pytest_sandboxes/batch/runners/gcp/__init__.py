"""Runner `gcp`: shards are tasks of a job of Google Cloud Batch, and what they say comes by a bucket.

Nothing of Google's packages is imported before a run needs it, and nothing of them in workers or shards.
"""
