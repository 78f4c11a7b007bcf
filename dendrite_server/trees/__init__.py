"""Trees as others see them: as JSON, as pictures, and as events while they change."""
