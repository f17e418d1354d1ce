"""Limits for whole process trees, by whichever cgroup version the host has."""
