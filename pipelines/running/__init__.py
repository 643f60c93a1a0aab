"""How processes of stages are started, slotted and stopped."""
