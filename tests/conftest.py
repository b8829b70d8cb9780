"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# The first example of a test may load the core or start threads, and machines differ: a time limit says nothing here.
# The examples are the same in every run, so that a failure is the change's.
settings.register_profile("embedtrain", deadline=None, derandomize=True)
settings.load_profile("embedtrain")
