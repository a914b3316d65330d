import classes from "./Brand.module.css";

export function Brand({ size = 24 }: { size?: number }) {
  return (
    <span className={classes.brand}>
      <svg width={size} height={size} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
        <path
          d="M20.5 5.9A11 11 0 1 0 26.1 11.5"
          fill="none"
          stroke="currentColor"
          strokeWidth="4"
          strokeLinecap="round"
        />
        <circle cx="16" cy="16" r="4" fill="currentColor" />
      </svg>
      <span className={classes.name}>ringfence</span>
    </span>
  );
}
