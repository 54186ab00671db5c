"""The quarantine: copies of failed and parked tasks in a folder, and a task source that reads them."""
