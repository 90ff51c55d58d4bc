"""The files that lift3d keeps: features, undistorted photos, renders. The format is in `docs/cache-format.md`."""
