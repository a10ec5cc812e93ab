"""Import of SimpleTuner's configurations: its keys are the contract, its numerics are not."""
