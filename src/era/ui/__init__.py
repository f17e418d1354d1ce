"""The dashboard: pages at `/ui` for people, on the service's own use cases and the API's own checks."""
