"""Serve a video by RTSP, in real time, from its beginning for each client.

It needs GStreamer's server, which Debian's Python runs:
apt install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad

Example: /usr/bin/python3 benchmarks/rtsp_server.py part.mp4 8554
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main() -> None:
    path, port = sys.argv[1:]
    Gst.init(None)
    for element in ("qtdemux", "h264parse", "rtph264pay"):
        if Gst.ElementFactory.find(element) is None:
            raise SystemExit(f"GStreamer lacks {element}")
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f'( filesrc location="{path}" ! qtdemux ! h264parse ! '
        "rtph264pay name=pay0 pt=96 config-interval=1 )"
    )
    server.get_mount_points().add_factory("/part", factory)
    if server.attach(None) == 0:
        raise SystemExit(f"port {port} is in use")
    print(f"rtsp://127.0.0.1:{port}/part", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
