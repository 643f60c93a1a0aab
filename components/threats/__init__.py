"""The threat models: one class per norm. Everything that depends on the norm is here."""
