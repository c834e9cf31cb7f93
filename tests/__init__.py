"""Tests of imgguard on a real Glance; see conftest for the fixtures."""
