"""The pure state machine of jobs and rounds: events in, decisions out."""
