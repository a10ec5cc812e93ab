"""The Ray, the data and the undisturbed run of tests/ray, once for all tests here."""

from tests.ray.conftest import digits, home, local_ray, straight

__all__ = ["digits", "home", "local_ray", "straight"]
