"""hostfsd: serves a host directory to one QEMU guest as virtiofs; a DAX window lets it map the host's page cache."""

__version__ = "1.0"
