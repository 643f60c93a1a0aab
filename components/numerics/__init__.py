"""How numbers are computed: devices and precision, processes, random numbers, losses, cost."""
