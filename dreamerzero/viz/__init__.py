"""What a person looks at: learning curves and rollout videos."""
