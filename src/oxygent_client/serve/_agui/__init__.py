"""The Agent User Interaction protocol: run inputs, events, threads and interrupts."""
