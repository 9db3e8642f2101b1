"""Many models: found or listed, each compressed in a process of its own, and summed up."""
