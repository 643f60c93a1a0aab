"""The subcommands of `temper`, one file each: options and help here, the work elsewhere."""
