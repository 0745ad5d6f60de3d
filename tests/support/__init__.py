"""What several tests use: processes, servers, disks, publishers and recorded runs."""
