"""Pages of the operator: machines, who holds what, requests to decide, prices, failed starts."""
