# Salt state for Qubes OS's dom0 and for Debian hosts: installs xlplug, and starts the daemon that grants to domains as they
# appear, because Qubes OS starts no device model in dom0 that the hook could stand before.
#
#   qubesctl state.apply xlplug                                  (Qubes OS, dom0)
#   salt 'xen*' state.apply xlplug pillar='{"xlplug": {"hook": true}}'   (other Xen hosts)
{% set settings = salt['pillar.get']('xlplug', {}) %}
{% set qubes = salt['file.file_exists']('/etc/qubes-release') %}
{% set hook = settings.get('hook', false) %}

xlplug:
  pkg.installed:
    - name: xlplug

xlplug-watch:
{% if settings.get('watch', qubes) %}
  service.running:
    - enable: true
{% else %}
  service.dead:
    - enable: false
{% endif %}
    - require:
      - pkg: xlplug

xlplug-hook:
  cmd.run:
{% if hook %}
    - name: xlplug hook install
    - unless: 'grep -qs "^# xlplug: " /usr/local/sbin/xl'
{% else %}
    - name: xlplug hook uninstall
    - onlyif: 'grep -qs "^# xlplug: " /usr/local/sbin/xl'
{% endif %}
    - require:
      - pkg: xlplug
