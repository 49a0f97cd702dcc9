"""Every metric of the relay and every log event name, in one table that is the contract."""
