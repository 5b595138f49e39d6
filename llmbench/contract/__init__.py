"""What processes, files and plugins agree on: cells, jobs, specs, engines, errors."""
