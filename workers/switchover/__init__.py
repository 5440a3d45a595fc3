"""The switchover: two small processes, one on each host, that carry a guest over while it is paused.

They are started before `migrate` is issued, talk to each other directly, and need neither broker nor database
nor worker between STOP and RESUME. Whichever process dies, the guest does not stay paused: cancel is the
default. If the source's process dies its guardian cancels (see `guardian`), whether or not there is a worker.

One line in the source's journal decides. Before `run` is in it, the source owns the guest and may
always go on, because the destination continues only when it is told `run` over this very connection. From
that line on the destination may be running and the source never goes on.

    source                          destination
    ------                          -----------
    hello                    ->     ready
    fsync (guest still runs) ->     done
    migrate ... pre-switchover (the guest is paused from here)
    end all mirrors, remove the NBD nodes
    release                  ->     exports and nodes go, image locks are free
    migrate-continue ... completed
    "run" into the journal
    run                      ->     marker, cont, RESUME, announce-self
    resumed                  <-
"""
