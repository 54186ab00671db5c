"""Object stores: S3, Azure Blob Storage, Google Cloud Storage."""
