"""The REST API. Serializers check shapes, services check rules; nothing here touches a driver."""
