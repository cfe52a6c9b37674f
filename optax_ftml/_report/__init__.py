"""The fusion report: what XLA makes of one step of an optimizer."""
