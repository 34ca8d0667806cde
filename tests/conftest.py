"""What all tests share."""

from hypothesis import settings

settings.register_profile("fedhe", deadline=None)  # no test here asserts a duration
settings.load_profile("fedhe")
