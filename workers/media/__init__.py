"""What a guest needs besides its writable disks: media, backing files, firmware, kernels, secrets, folders.

    at the source                       at the destination
    listing   which files, as they are  destination  which are there, which are missing, what is against it
    sender  === stream `files` ===>     receiver     a process: writes beside, verifies, puts into place
                                        placing      what was put there by a job, and who else uses it

A file is told by its digest, see `digests`. What is there and equal is used, what is there and differs is never
touched. A backing file may be the base of many guests: whoever comes first copies it, the others wait for that, and a
job that is rolled back leaves it if anybody else has come to use it. At the source nothing is ever removed.
"""
