"""Records in a database: one set of statements, shared by every database we keep them in.

tables      what is stored
statements  every statement, built once
rows        database rows to the values of `era.models`, and back
units       the work of one transaction each, as plain functions of a connection
keeper      the promises of `Records`, each one unit given to a keeper to run
sqlite      the keeper on one SQLite file
migrate     brings a database to the schema this program knows
"""
