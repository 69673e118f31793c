"""A simulator of autoscaling: days of work against the chart's rules, before they cost money."""
