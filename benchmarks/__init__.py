"""What bench costs beside a loop that anyone would write, on the machine at hand: `make benchmark`."""
