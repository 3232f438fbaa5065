"""What a judge is asked about an answer, and how its verdict is read: for graders and for pipelines that ask one."""
