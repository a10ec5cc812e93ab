"""SimpleTuner's configurations, taken as they stand: its keys are the contract, its numerics are not."""
