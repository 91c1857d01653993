"""What the command line is made of, apart from the roles: `sidecar.cli` puts it together."""
