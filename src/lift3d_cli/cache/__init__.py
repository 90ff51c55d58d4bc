"""What lift3d keeps on disk: features, undistorted photos, renders. The format is in `docs/cache-format.md`."""
