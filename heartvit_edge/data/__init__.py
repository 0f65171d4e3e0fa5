"""Images: folders, npz files and the bundled digits, and their preprocessing. No torch: both halves read alike."""
