"""The supervisor of engines on one machine. No Django here: deploys of the portal pass it by."""
