"""The v1 API, on a real Glance 15.0.2 of 2017 on Python 2.7."""
