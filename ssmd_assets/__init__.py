"""The Dagster wing: assets, checks, partitions, sensors, schedules. The only wing that imports dagster."""
