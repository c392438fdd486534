"""What the public REST API answers, a model for each document. `/api/openapi.json` is made of them.

The services build plain dicts; the suite holds every answer it gets against the model its route declares.
"""
