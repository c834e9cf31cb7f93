"""Two Glance hosts are used and broken at random, and then everything anybody was told is held against what is there.

``make chaos``, or ``python -m chaos [--seconds N] [--seed S]``. Needs PostgreSQL's programs (``initdb``, ``pg_ctl``):
the run starts servers of its own and touches no other; RabbitMQ's, where there are any, too. A seed repeats what is
done and when; what it meets depends on the machine as well.

* :mod:`chaos.world`: the hosts, their databases, store and disk
* :mod:`chaos.trouble`: what breaks
* :mod:`chaos.players`: what clients do; they write all of it into :mod:`chaos.ledger`
* :mod:`chaos.promises`: what the ledger alone tells of broken promises
* :mod:`chaos.told`: the same of what was told through the message broker
* :mod:`chaos.ending`: the same of what is there at the end, and one last retry of each image without data
"""
