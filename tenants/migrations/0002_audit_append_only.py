"""The audit can only grow: the database itself refuses changes, deletions and truncation."""

from django.db import migrations

FORWARD = """
CREATE FUNCTION tenants_audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON tenants_auditevent
  FOR EACH ROW EXECUTE FUNCTION tenants_audit_append_only();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON tenants_auditevent
  FOR EACH STATEMENT EXECUTE FUNCTION tenants_audit_append_only();
"""
BACKWARD = """
DROP TRIGGER audit_no_truncate ON tenants_auditevent;
DROP TRIGGER audit_append_only ON tenants_auditevent;
DROP FUNCTION tenants_audit_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
