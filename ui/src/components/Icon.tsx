const paths = {
  audit: "M4 19V9m5.3 10V5m5.4 14v-7M20 19V8",
  check: "M5 12.5l4.5 4.5L19 7.5",
  chevron: "M9 6l6 6-6 6",
  clock: "M12 7v5l3 2m6-2a9 9 0 1 1-18 0 9 9 0 0 1 18 0z",
  cross: "M6.5 6.5l11 11m0-11l-11 11",
  edit: "M4 20h4L19 9l-4-4L4 16v4zM13 7l4 4",
  egress: "M7 17L17 7M9 7h8v8",
  enforce: "M12 3l7.5 3v5.5c0 4.6-3.1 7.9-7.5 9.5-4.4-1.6-7.5-4.9-7.5-9.5V6L12 3z",
  ingress: "M17 7L7 17m8 0H7V9",
  moon: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
  node: "M5 4h14v6H5zM5 14h14v6H5zM8.5 7h.01M8.5 17h.01",
  observe:
    "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 15a3 3 0 1 0 0-6 3 3 0 0 0 0 6z",
  pause: "M9 5v14M15 5v14",
  play: "M7 4.5v15l12-7.5-12-7.5z",
  plus: "M12 5v14M5 12h14",
  refresh: "M20 11A8 8 0 0 0 5.6 7.2L4 9m0-5v5h5M4 13a8 8 0 0 0 14.4 3.8L20 15m0 5v-5h-5",
  rollback: "M9 14L4.5 9.5 9 5M5 9.5h9a5.5 5.5 0 0 1 0 11h-3",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5L20 20",
  sort: "M12 5v14m-5-5l5 5 5-5",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 2.5v2m0 15v2M2.5 12h2m15 0h2M5.3 5.3l1.4 1.4m10.6 10.6l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
  system: "M3.5 5h17v11h-17zM9 20h6m-3-4v4",
  warning: "M12 4L2.8 19.5h18.4L12 4zm0 6v4.5m0 2.5h.01",
} as const;

export type IconName = keyof typeof paths;

/** A decorative icon; the text beside it, or its button's label, says the same. */
export function Icon({
  name,
  size = 16,
  className,
}: {
  name: IconName;
  size?: number;
  className?: string;
}) {
  return (
    <svg
      className={className}
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth={2}
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
      focusable="false"
    >
      <path d={paths[name]} />
    </svg>
  );
}
