"""What a person looks at: learning curves, rollout videos and dreams."""
