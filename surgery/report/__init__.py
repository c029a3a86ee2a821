"""What a run leaves beside the weights: report and model card; pages made of them; making an output again."""
