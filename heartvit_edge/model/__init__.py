"""Dense timm models: loading, one functional forward with gates, and removal by slicing."""
