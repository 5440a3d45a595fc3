"""What is shown of jobs, drains, hosts and guests, whoever shows it: queries, JSON documents, sentences.

`documents` has each document as a whole; they are made of `queries` and `drain_queries` by `serializers` and
`drain_documents`. `sentences` and `drain_sentences` have what is said to people, `progress` the bars of a job under
way, `timeline` the parts of one over time. Only reads.
"""
