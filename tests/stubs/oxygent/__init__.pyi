# What our drop-in and its tests use of oxygent, which has no types and is not there where types are checked.
