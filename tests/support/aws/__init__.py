"""What of AWS the ECS guide needs, on loopback: CloudFormation and ECS of our own, data services by moto's server.

Stacks are worked out by `tests.support.cloudformation`. An ECS task is the container's own command, with its
environment and secrets, as a process of the real program. A change is complete when its call is answered.
"""
